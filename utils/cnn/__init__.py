"""What training a Keras network needs (TensorFlow): batches, callbacks, Grad-CAM."""
