"""From a trained run to what serves it: SavedModels for TensorFlow Serving, and what is written beside them."""
