"""Looking at a model: `summary`, its costs, TensorBoard, progress bars."""
