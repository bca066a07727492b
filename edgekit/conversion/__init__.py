"""The verb `convert`, and verification, receipts, plans, the search for a type and the cache of conversions."""
