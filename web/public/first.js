// Before the page is drawn: the language, the chosen theme, and no form for who is signed in.
const theme = localStorage.getItem("tidings.theme");
if (theme !== null) document.documentElement.dataset.theme = theme;
if (localStorage.getItem("tidings.session") !== null) document.documentElement.dataset.signedIn = "";
const spoken = [localStorage.getItem("tidings.language"), ...navigator.languages].map((tag) => tag?.split("-")[0]);
document.documentElement.lang = spoken.find((language) => ["en", "es"].includes(language)) ?? "en";
