"""What flytelineage costs: ``python -m benchmarks`` (docs/benchmarks.md)."""
