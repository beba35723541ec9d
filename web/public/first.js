// Before the page is drawn: the chosen theme, and no form for who is signed in.
const theme = localStorage.getItem("tidings.theme");
if (theme !== null) document.documentElement.dataset.theme = theme;
if (localStorage.getItem("tidings.session") !== null) document.documentElement.dataset.signedIn = "";
