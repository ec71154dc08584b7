"""From the training thread to the relay: `Bus` takes records without waiting, a channel carries them."""
