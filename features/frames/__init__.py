"""From a waveform to frames: (frames, bins) float32.

feature_settings  the `features:` block, and the kinds that it names
parameters        its fields, which the kinds read
framing           where frames lie in a waveform
spectrum          windowed Fourier transforms
logmel, mfcc, chroma, logspectrum, rms, zero_crossings, centroid
                  a kind of feature each
waveform_network  log-mel as a network, for ONNX
"""
