document.documentElement.dataset.ready = ''

export {}
