# PAGE_HTML, the bytes of host/play/page.html with a NUL, as generated/page_html.h.
set(page ${CMAKE_SOURCE_DIR}/host/play/page.html)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${page})
file(READ ${page} bytes HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/page_html.h
     CONTENT "static const unsigned char PAGE_HTML[] = {\n@bytes@0};\n" @ONLY)
