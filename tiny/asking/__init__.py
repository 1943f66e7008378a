"""Questions about a scene, what is true of it, and the answers to learn."""
