"""The merged state of all remembered runs, in the inbox's database: merging, reading, exporting, showing."""
