// uPlot, as its authors minified it: half the size of the module that they publish too. It is a script of the old kind, which
// leaves its name behind.

await new Promise((resolve, reject) => {
  const script = document.createElement('script');
  script.src = '/vendor/uplot/uPlot.iife.min.js';
  script.addEventListener('load', resolve);
  script.addEventListener('error', () => reject(new Error('the charts could not be loaded: load the page again')));
  document.head.append(script);
});

export default globalThis.uPlot;

/** The y axis: linear, or logarithmic and no wider than its values, where uPlot would show whole powers of ten. */
export const yScale = (isLog) => (isLog ? { distr: 3, range: (_, low, high) => (low > 0 ? [low / 1.05, high * 1.05] : [1, 10]) } : { distr: 1 });
