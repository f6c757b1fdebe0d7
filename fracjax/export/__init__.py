"""Models in formats that others run, each compared with the bundle as it is written."""
