"""Where lineage goes besides the catalog."""
