"""TensorBoard's formats: event files and log directories, and the one translation of protos into events."""
