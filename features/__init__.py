"""What a model hears: clips on disk, frames in a shared store, windows on a device."""
