"""From a recipe to its detector.

detector      a trained model, its thresholds, what was measured of it
making        from a recipe to a bundle: recordings read and checked, trained, measured, saved
final         the training, and its measurement on the held-out test clips
optimism      validation minus test, and the spread over seeds
caveats       what stands beside the figures, in sentences
bundle        a detector's folder or bucket: written and read
bundle_files  its JSON files, key by key
model_card    the bundle's README
scoring       clips to scores and decisions
submission    scores as the challenge's files
onnx_network  a detector as one network, from a waveform to a score
onnx_export   that network as an ONNX file, checked
"""
