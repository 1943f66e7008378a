"""Answer questions about many images: the program `visualglm batch`."""
