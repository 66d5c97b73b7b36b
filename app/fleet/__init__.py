"""Several machines on one queue: workers beside their engines, any number of API processes.

Nothing here is imported unless the store is on PostgreSQL.
"""
