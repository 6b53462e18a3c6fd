"""The networks, one file each; plain arguments in, functional Keras models out."""
