"""The embedded data set "stamps": its feature table, its NOTICE, and the code that remakes the table."""
