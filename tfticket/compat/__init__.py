"""TF-MOT's pruning on Keras 3: its names (`tfmot`), its models (`convert`)."""
