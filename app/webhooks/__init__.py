"""Signed events about jobs, sent at least once to the URLs that clients named."""
