"""The embedded model server, for local use: TensorFlow Serving's contract over REST and gRPC, and a viewer page."""
