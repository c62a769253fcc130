"""Which axes of which leaf are the rows and columns of a matrix, and where its stack lies."""
