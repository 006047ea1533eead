"""Settings, scripts, files, threads and processes. Nothing here knows of features or networks."""
