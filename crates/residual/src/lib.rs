//! What still differs between a patched address space and the new image.
