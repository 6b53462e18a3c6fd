"""From splits and files to what a method says of them: arrays, maps on disk, a table, overlays. Knows no method."""
