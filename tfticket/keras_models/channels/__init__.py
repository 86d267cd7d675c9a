"""Which channels of a Keras model live or die together: rules, labels and groups."""
