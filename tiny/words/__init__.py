"""What people say, and what things are called, in Chinese and English."""
