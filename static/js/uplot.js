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
