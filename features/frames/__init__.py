"""From a waveform to frames: (frames, bins) float32.

feature_settings  the `features:` block, and the kinds that it names
parameters        its fields, which the kinds read
framing           where frames lie in a waveform
spectrum          windowed Fourier transforms
logmel, mfcc, chroma, logspectrum, rms, zero_crossings, centroid
                  a kind of feature each, with a frame each hop
clip_spectrum     a kind of feature with one frame for each clip
waveform_network  log-mel as a network, for ONNX
"""
