"""Would these rules have fired? The past as scraped gauges, and promtool running rules over it."""
