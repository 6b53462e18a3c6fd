"""From a trained run to what serves it: SavedModels for TensorFlow Serving, and whatever else is written beside them."""
