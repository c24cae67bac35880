"""Data: manifests, video files, episodes, context windows, rooms rendered as the model trains."""
