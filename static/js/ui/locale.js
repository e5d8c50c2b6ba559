// A browser started under the C locale calls its language "en-US@posix", which Intl rejects, and with it the chart
// library while it loads. Import this module first.

try {
  Intl.getCanonicalLocales(navigator.language);
} catch {
  Object.defineProperty(navigator, 'language', { value: 'en-US' });
}
