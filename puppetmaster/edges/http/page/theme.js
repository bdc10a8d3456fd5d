// Sets the colours before the first paint. No module, for modules run too late for that.
(() => {
  let choice = null;
  try {
    choice = localStorage.getItem('puppetmaster.theme');
  } catch {
    // Storage may be forbidden; the colours of the system are right then.
  }
  if (choice === 'light' || choice === 'dark') document.documentElement.dataset.theme = choice;
})();
