"""From a recipe to its detector.

detector        a trained model, its thresholds and its metrics
making          from a recipe to a bundle: read and check the recordings, train, measure, save
final_training  the training, and its measurement on the held-out test clips
optimism        validation minus test, and the spread over seeds
best_member     an ensemble of a study's trials beside its best member alone
caveats         sentences that qualify the metrics
bundle          a detector's folder or bucket: written and read
bundle_files    the bundle's JSON files, key by key
document        the base of these documents
digests         digests of the bundle's files
model_card      the bundle's README
thresholds      the scores that set thresholds, what these promise and what they decide
threshold_card  the model card's section on them
threshold_move  thresholds for another false-alarm rate, without training
scored_clips    clips to scores and decisions
submission      scores as the challenge's files
onnx_network    a detector as one network, from a waveform to a score
onnx_statistics statistics over time, as a part of that network
onnx_export     that network as an ONNX file, checked
"""
