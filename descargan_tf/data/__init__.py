"""Images and data sets: drawing, reading, checking, batching. Knows no model."""
