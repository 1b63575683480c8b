"""What the user wrote: accounts, their keys, and everything that is wrong with them."""
