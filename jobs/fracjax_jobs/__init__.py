"""Jobs that run unattended over many files."""
