"""`purejaxppo bench`: how fast this machine trains, and how close that is to its limits."""
