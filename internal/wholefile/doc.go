// Package wholefile replaces files of which nobody is to see a half.
package wholefile
