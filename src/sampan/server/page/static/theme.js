// Runs before the first paint, so that no page flashes in the wrong colours.
document.documentElement.dataset.theme = (() => {
  try {
    return localStorage.getItem("sampan.theme") || "";
  } catch {
    return "";
  }
})();
