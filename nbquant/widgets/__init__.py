"""What the user touches: the explorer's state, and its view."""
