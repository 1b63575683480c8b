"""Values: usage and bills become money per hour. Pure functions."""
