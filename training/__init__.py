"""What a training needs beside its losses and its loop: batches, progress, checkpoints."""
