"""What stands wherever a score appears."""

NOTICE = "Research use only. Not a medical device. Not for diagnosis."
