"""The verb convert and what proves it: receipts, plans, the search for a type, the cache of conversions."""
