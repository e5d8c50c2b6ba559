// A browser started under the C locale calls its language "en-US@posix", which the Intl functions refuse, and with
// them the chart library as soon as it is loaded. Imported before anything else.

try {
  Intl.getCanonicalLocales(navigator.language);
} catch {
  Object.defineProperty(navigator, 'language', { value: 'en-US' });
}
