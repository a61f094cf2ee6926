"""Commands on studies, from `init` to `export`; `upkeep` has `stop`, `rename` and `delete`."""
