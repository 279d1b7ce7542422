"""From events to lineage: fold, literals, schemas, build, names."""
