// uPlot as its authors minify it, half the size of the module that they publish too. That build is a classic script,
// which leaves a global.

import { h } from '../ui/dom.js';

await new Promise((resolve, reject) => {
  const script = h('script', { src: '/vendor/uplot/uPlot.iife.min.js' });
  script.addEventListener('load', resolve);
  script.addEventListener('error', () => reject(new Error('The chart library did not load. Reload the page.')));
  document.head.append(script);
});

/** @type {typeof import('uplot')} */
const uPlot = Reflect.get(globalThis, 'uPlot');

export default uPlot;
