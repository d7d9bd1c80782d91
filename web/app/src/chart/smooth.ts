/**
 * Smooths a curve for drawing; raw points stay as they were logged. Each point
 * is the mean of those before it, weighted by weight to the power of how many
 * points ago they were, with the correction for the short past of the first
 * ones (Kingma & Ba 2015, arXiv:1412.6980, section 3). NaN stays NaN and does
 * not spread. weight is 0 (as it is) to below 1.
 */
export function smoothed(y: number[], weight: number): number[] {
  let sum = 0, past = 0;
  return y.map((v) => {
    if (!Number.isFinite(v)) return NaN;
    sum = weight * sum + (1 - weight) * v;
    past = weight * past + (1 - weight);
    return sum / past;
  });
}
